"""A command as a process among hosts: its flags, exit codes and output folders."""
