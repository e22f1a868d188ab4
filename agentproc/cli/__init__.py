"""The command line ``aios``. ``main`` has the table of commands and the module of each."""
