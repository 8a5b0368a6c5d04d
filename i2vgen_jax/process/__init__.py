"""The process and its hosts: flags, exit codes, folders."""
