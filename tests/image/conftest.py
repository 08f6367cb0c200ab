"""Only `make image-check` has an image to test."""

import os

collect_ignore = [] if os.environ.get("TEST_IMAGE") else ["test_container.py"]
