"""The toolhost: where tools run, outside the kernel and outside the agents.

The kernel starts one dispatcher process, which starts the workers: warm processes that each run one
call at a time of one source, with limits, and one process for each MCP server. A tool may crash,
hang, print or fork: its worker is killed with all that it started, and no other call is affected.
Only the workers import third-party libraries for tools.
"""
