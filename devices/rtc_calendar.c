#include "devices/rtc_calendar.h"

#define SECONDS_PER_DAY 86400
#define DAYS_PER_400Y   146097
#define DAYS_1970       719468 /* from 0000-03-01 to 1970-01-01 */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t floor_mod(int64_t a, int64_t b)
{
    return a - floor_div(a, b) * b;
}

/*
 * Years are counted from March, which puts the leap day at the end: month m (0 = March) then begins at day
 * (153 m + 2) / 5, and a year y at day 365 y + y/4 - y/100 of its 400-year cycle.
 */
static int64_t days_of_date(int64_t year, int64_t month, int64_t day)
{
    int64_t months = year * 12 + (month - 3);
    int64_t march_year = floor_div(months, 12), march_month = floor_mod(months, 12);
    int64_t cycle = floor_div(march_year, 400), y = floor_mod(march_year, 400);
    int64_t day_of_cycle = 365 * y + y / 4 - y / 100 + (153 * march_month + 2) / 5;
    return cycle * DAYS_PER_400Y + day_of_cycle + (day - 1) - DAYS_1970;
}

static void date_of_days(int64_t days, struct calendar *out)
{
    int64_t shifted = days + DAYS_1970;
    int64_t cycle = floor_div(shifted, DAYS_PER_400Y), d = floor_mod(shifted, DAYS_PER_400Y);
    /* Take out the leap days that have passed, so that all years have 365 days. */
    int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
    int64_t day_of_year = d - (365 * y + y / 4 - y / 100);
    int64_t m = (5 * day_of_year + 2) / 153;
    out->day = (int)(day_of_year - (153 * m + 2) / 5 + 1);
    out->month = (int)(m < 10 ? m + 3 : m - 9);
    out->year = (int)(cycle * 400 + y + (m >= 10));
}

void calendar_from_seconds(int64_t seconds, struct calendar *out)
{
    int64_t days = floor_div(seconds, SECONDS_PER_DAY);
    int rest = (int)floor_mod(seconds, SECONDS_PER_DAY);
    date_of_days(days, out);
    out->hour = rest / 3600;
    out->minute = rest / 60 % 60;
    out->second = rest % 60;
    out->weekday = (int)floor_mod(days + 4, 7) + 1; /* 1970-01-01 was a Thursday */
}

int64_t calendar_to_seconds(const struct calendar *c)
{
    int64_t days = days_of_date(c->year, c->month, c->day);
    return days * SECONDS_PER_DAY + (int64_t)c->hour * 3600 + (int64_t)c->minute * 60 + c->second;
}
