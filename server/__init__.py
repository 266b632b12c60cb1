"""One OpenAI-compatible endpoint in front of several engines: gateway, supervisor, one child process per variant.

The gateway forwards bytes and parses requests only; the supervisor starts, watches and restarts the engines. vLLM is
never imported here: it is run through its command line and spoken to over HTTP on a Unix socket, because a second
engine in one process silently removes the first one's metrics, and because a crash must cost one variant only.
"""
