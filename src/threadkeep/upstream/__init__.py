"""Who answers the model's turn: Chat Completions servers, and the offline model."""
