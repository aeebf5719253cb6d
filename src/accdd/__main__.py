"""`python -m accdd` is the command `accdd`."""

from accdd.cli import main

if __name__ == "__main__":
    main()
