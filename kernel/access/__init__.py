"""Access: who may do what, the questions to the operator, and the record of every decision."""
