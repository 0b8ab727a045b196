"""What every section of the configuration is built from."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from legible.config.allowed import NAME, NAME_LENGTH, a_name, countable, known_keys, two

SIDE = 8192  # pixels of a picture
BATCH = 65536
STEPS = 10_000_000
ENTRIES = 1000  # of a list: each makes jobs
# Not `le`: a field may have a lower bound of its own.
Positive = Annotated[int, Field(gt=0, strict=True), AfterValidator(countable)]
Natural = Annotated[int, Field(ge=0, strict=True), AfterValidator(countable)]
PositiveFloat = Annotated[float, Field(gt=0, strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Name = Annotated[str, AfterValidator(a_name), Field(json_schema_extra={"pattern": NAME, "maxLength": NAME_LENGTH})]
Text = Annotated[str, Field(min_length=1)]
Pixels = Annotated[int, Field(gt=0, le=SIDE, strict=True)]
Pair = Annotated[tuple[Pixels, Pixels], BeforeValidator(two)]  # of pixels, or of what has no more than these


class Section(BaseModel):
    """Base of every section: immutable, and a key that is not listed is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def its_own_keys(cls, raw: Any) -> Any:
        return known_keys(cls, raw)
