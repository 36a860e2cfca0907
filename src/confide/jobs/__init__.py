"""Jobs: from a job to nodes, to a run, to a receipt.  Imports everything below it; nothing below imports it."""
