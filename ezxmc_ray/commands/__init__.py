"""The commands of ``ezxmc`` that are about what a run left behind: tags, exports, labels, verdicts, a server."""
