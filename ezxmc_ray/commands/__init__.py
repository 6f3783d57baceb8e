"""The commands of ``ezxmc`` that are about what a run left behind: its tags, its verdicts (cli.py has the rest)."""
