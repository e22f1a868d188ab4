"""``python -m aios.toolhost FD``: the dispatcher, as the kernel starts it."""

from .host import main

main()
