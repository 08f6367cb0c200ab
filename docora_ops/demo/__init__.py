"""Optional: a small Docora on temporary servers, to try the tool."""
