"""What operators do so that nothing is lost, and that what was deleted is gone.

    sweep       objects that nobody claims: moved aside, later removed
    scrub       every object read again and held against its hash
    purge       what was deleted leaves no byte behind
    backup      all of a running installation on SQLite, in one sealed file
    restore     from there into an empty data folder

Knows database, storage and interactions. Whoever calls is told how far it is, and decides where
that is shown.
"""
