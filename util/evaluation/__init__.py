"""What eval.py does beyond top-1, top-5 and loss: which classes, whose labels, tables and pictures."""
