"""The access manager: who may do what, what the operator is asked, and the record of it."""
