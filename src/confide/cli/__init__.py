"""The command line: thin, one file a noun.  Standard output is the answer, standard error the story.

Nothing is decided here: commands turn words into calls of the layers below and results into text or JSON.
"""
