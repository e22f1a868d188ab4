"""The tool manager: which tools there are, whose turn it is, and the toolhost that runs them."""
