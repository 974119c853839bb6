"""One HTML page about one or several runs: what they reached, how, and what went wrong. Imports no paddle."""
