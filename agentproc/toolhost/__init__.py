"""The toolhost: where tools run, outside the kernel and outside the agents.

One dispatcher process, started by the kernel, and beneath it workers: warm processes that each run
one call at a time of one source, with limits, and one process for each MCP server. A tool may
crash, hang, print or fork as it likes: its worker is killed with all it started, and nobody else
notices. The only place that imports third-party libraries for tools, and only in workers.
"""
