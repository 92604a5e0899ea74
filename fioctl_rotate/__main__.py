"""`fioctl-rotate` and `python -m fioctl_rotate`."""

import gc

# Imported modules stay, so a search for garbage among them is wasted: a tenth of the start. The command switches
# the collector on again.
gc.disable()

from fioctl_rotate.cli.app import main  # noqa: E402  after the line above, which is for its imports

if __name__ == "__main__":
    main()
