// SPDX-License-Identifier: MIT
// JSON values of what JSON has no words for: bytes that are no UTF-8, numbers that are not finite.
#ifndef JSON_VALUE_H
#define JSON_VALUE_H

#include <jansson.h>

/* A string; U+FFFD in place of each byte that is not part of valid UTF-8. NULL: out of memory. */
json_t *json_value_text(const char *text);

/* A real, or null where the number is infinite or NaN. */
json_t *json_value_number(double number);

#endif
