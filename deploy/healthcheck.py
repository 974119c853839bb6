"""Asks the server of its container whether it answers images: ends with 0, or with 1 and the reason.

python deploy/healthcheck.py 8000
"""

import http.client
import sys

TIMEOUT = 4.0  # seconds, less than the HEALTHCHECK's own: so that there is a reason


def not_ready(port: int) -> str | None:
    """Returns why the server at this port of the machine itself is not ready, or None. Asks without a proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return None if answer.status == 200 else f"{answer.status}: {answer.read(500).decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"port {port}: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not_ready(int(sys.argv[1])))
