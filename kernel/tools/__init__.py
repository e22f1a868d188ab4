"""Tools: which exist, who may call one next, and the link to the toolhost that runs them."""
