"""`python -m tasks.serving.embedded`: the embedded server alone, with tensorflow_model_server's flags."""

import os
import sys

from tasks.serving.embedded.server import serve


def main() -> None:
    """Serve until SIGTERM or SIGINT, then exit at once."""
    code = serve(sys.argv[1:], ready=None)
    sys.stdout.flush()
    sys.stderr.flush()
    # sys.exit would wait for TensorFlow's and gRPC's threads; SIGTERM ends the real server at once.
    os._exit(code)


if __name__ == "__main__":
    main()
