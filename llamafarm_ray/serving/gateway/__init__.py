"""Gateway of a replica: authentication, validation, limits and a fair queue in front of the engine's HTTP app.

``gateway`` joins the parts. ``auth`` checks keys, ``validation`` reads requests strictly, ``limits`` and
``shared_limits`` bound each key, ``fair_queue`` orders requests. ``auto_selection`` picks a model for ``auto``,
``proxied_request`` is the request as the engine sees it, and ``feedback`` stores ratings.
"""
