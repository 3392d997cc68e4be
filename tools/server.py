"""The earlier place of the headless host, which scripts may still import."""

from tools.host.server import HostError, Interrupted, Progress, Prompt, Server, Watch, running

__all__ = ["HostError", "Interrupted", "Progress", "Prompt", "Server", "Watch", "running"]
