"""``python -m aios.toolhost FD``: the dispatcher, as the kernel starts it."""

from .dispatcher import main

main()
