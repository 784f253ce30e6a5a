"""How a run happens: lifecycle (the verbs), execution (the turn loop), prompt, reply, journal, follow, streams."""
