"""The parts of a device's page. Each module's ``blocks`` is empty where it has no rows."""
