// SPDX-License-Identifier: MIT
// See json_value.h.
#include "json_value.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define LONGEST_SEQUENCE 4

/* Bytes of the shortest beginning of text that is a character; 0: none is. */
static size_t sequence(const char *text)
{
    for (size_t length = 1; length <= LONGEST_SEQUENCE && text[length - 1]; length++) {
        json_t *character = json_stringn(text, length);
        json_decref(character);
        if (character)
            return length;
    }
    return 0;
}

json_t *json_value_text(const char *text)
{
    static const char unknown[] = "\xef\xbf\xbd";
    json_t *whole = json_string(text);
    if (whole)
        return whole;
    char *valid = tool_alloc(strlen(text), sizeof unknown - 1), *end = valid;
    while (valid && *text) {
        size_t length = sequence(text);
        memcpy(end, length ? text : unknown, length ? length : sizeof unknown - 1);
        end += length ? length : sizeof unknown - 1;
        text += length ? length : 1;
    }
    if (valid)
        whole = json_stringn(valid, (size_t)(end - valid));
    free(valid);
    return whole;
}

json_t *json_value_number(double number)
{
    return isfinite(number) ? json_real(number) : json_null();
}
