"""What docora-ops does: changes Postgres and the queue together, returns values, prints nothing."""
