"""The run controller: the only writer of run state. A queue with fair shares, one table of moves, resumes by itself."""
