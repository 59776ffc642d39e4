"""The terminal app of a service and its way there: headers, transports, pools."""
