"""The evaluation scenario from end to end: models, data, compression, accuracy, delivery, reports and the command line."""
