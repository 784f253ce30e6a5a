"""What a model may call: the functions of the client and the tools that this server runs itself."""
