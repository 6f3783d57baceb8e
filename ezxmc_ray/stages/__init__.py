"""What runs on Ray: the Ray graph over shards, and nothing else.

One module a stage of a run; beside them the batch commands that read a run or an export and write elsewhere (rerank,
tag_folder, update_tags, new_labels), and what the workers of either do (modules called ``…_worker``).
"""
