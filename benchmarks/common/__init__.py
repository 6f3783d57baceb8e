"""What every benchmark shares: results, their headlines, the documents that are read, the words of a command line.

The folders of helpers are named teacher_bench, student_bench and quality_bench, since ``import teacher`` would find the
script teacher.py beside a folder of the same name or hide it. Scripts and folders import each other by these names:
benchmarks/ is on the path of whoever runs a script there.
"""
