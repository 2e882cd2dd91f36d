"""The entities with a history: customers who pay, merchants who are paid."""

from feast import Entity, ValueType

customer = Entity(
    name="customer",
    join_keys=["customer_id"],
    value_type=ValueType.STRING,
    description="Who pays; the holder of the card.",
)
merchant = Entity(
    name="merchant",
    join_keys=["merchant_id"],
    value_type=ValueType.STRING,
    description="Who is paid; on the handbook data a terminal.",
)
