/* Calendar arithmetic of the real-time clock: proleptic Gregorian, no time zones, no leap seconds. */
#ifndef DEJAVM_DEVICES_RTC_CALENDAR_H
#define DEJAVM_DEVICES_RTC_CALENDAR_H

#include "core/base/types.h"

struct calendar {
    int second, minute, hour; /* 0..59, 0..59, 0..23 */
    int weekday;              /* 1 = Sunday .. 7 */
    int day, month;           /* 1..31, 1..12 */
    int year;                 /* 1970 and so on */
};

void calendar_from_seconds(int64_t seconds, struct calendar *out);

/*
 * Seconds since 1970-01-01 00:00:00. Fields out of their ranges (up to a few thousand, either sign) carry
 * over into the next larger one: day 30 of February is March 1 or 2. weekday is not looked at.
 */
int64_t calendar_to_seconds(const struct calendar *c);

#endif
