"""`fioctl-rotate` and `python -m fioctl_rotate`."""

from fioctl_rotate.cli.app import main

if __name__ == "__main__":
    main()
