#include "tools/progress.h"
#include "tools/number.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { BAR_CELLS = 24 };
static const uint64_t first_draw_ns = 300000000, redraw_ns = 100000000;

uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void progress_begin(struct progress *p, const char *label, bool quiet)
{
    *p = (struct progress){
        .label = label, .enabled = !quiet && isatty(STDERR_FILENO), .start_ns = monotonic_ns()};
}

static bool due(struct progress *p, uint64_t now)
{
    if (!p->enabled || now - p->start_ns < first_draw_ns || (p->drawn && now - p->last_draw_ns < redraw_ns))
        return false;
    p->last_draw_ns = now;
    p->drawn = true;
    return true;
}

/* Cut to the terminal's width, or a redraw would start a new line each time. */
static void draw(const char *line)
{
    struct winsize size;
    int width = 80;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        width = size.ws_col;
    fprintf(stderr, "\r%.*s\033[K", width - 1, line);
    fflush(stderr);
}

void progress_update(struct progress *p, uint64_t done, uint64_t total)
{
    uint64_t now = monotonic_ns();
    struct number_text number, eta;
    char line[160];
    if (!due(p, now))
        return;
    if (total == 0) {
        snprintf(line, sizeof(line), "%s: %s", p->label, number_format(done, &number));
    } else {
        double part = done < total ? (double)done / (double)total : 1;
        char bar[BAR_CELLS + 1];
        int full = (int)(part * BAR_CELLS);
        memset(bar, '#', (size_t)full);
        memset(bar + full, '.', (size_t)(BAR_CELLS - full));
        bar[BAR_CELLS] = '\0';
        int used = snprintf(line, sizeof(line), "%s [%s] %3.0f%%", p->label, bar, part * 100);
        double left_ns = part > 0.01 ? (double)(now - p->start_ns) * (1 - part) / part : 0;
        if (left_ns > 0 && left_ns < 1e16)
            snprintf(line + used, sizeof(line) - (size_t)used, ", %s left",
                     duration_format((uint64_t)left_ns, &eta));
    }
    draw(line);
}

void progress_text(struct progress *p, const char *text)
{
    char line[160];
    if (!due(p, monotonic_ns()))
        return;
    snprintf(line, sizeof(line), "%s: %s", p->label, text);
    draw(line);
}

void progress_end(struct progress *p)
{
    if (p->drawn) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->drawn = false;
}
