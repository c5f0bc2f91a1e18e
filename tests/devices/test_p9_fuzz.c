/*
 * test_p9_fuzz [MESSAGES [SEED]]: that many requests (default 12000) of a client that is out to do harm, while the host changes the
 * folder under it. Answers are well-formed, and nothing outside of the folder changes.
 */
#include "tests/devices/p9_fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MESSAGES_OF_A_FOLDER 4000u

static unsigned long messages = 12000;
static uint64_t first_seed = 1;

static unsigned entries(const char *path)
{
    unsigned count = 0;
    DIR *d = opendir(path);
    assert_non_null(d);
    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

static void assert_outside_is_as_it_was(const struct client *c, const struct stat *before)
{
    char text[sizeof(SECRET) + 1] = "";
    struct stat st;
    const char *path = client_path(c, "../secret");
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_ino, before->st_ino);
    assert_int_equal(st.st_mode, before->st_mode);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(st.st_mtim.tv_nsec, before->st_mtim.tv_nsec);
    assert_int_equal(st.st_ctim.tv_nsec, before->st_ctim.tv_nsec);
    assert_int_equal(entries(c->outside), 4); /* ".", "..", the secret, the folder */
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof(text), f));
    fclose(f);
    assert_string_equal(text, SECRET);
    assert_int_equal(stat(c->folder, &st), 0);
    assert_int_equal(st.st_mode & S_IFMT, S_IFDIR);
}

/* Counts in good, for each type of request, those answered without an error. */
static void client_session(uint64_t *seed, unsigned long count, unsigned long good[256])
{
    struct client *c = client_create(false);
    unsigned descriptors = entries("/proc/self/fd");
    struct stat secret;
    assert_int_equal(lstat(client_path(c, "../secret"), &secret), 0);
    for (unsigned long i = 0; i < count; i++) {
        if (i % 100 == 99) { /* whatever became of the session */
            c->room = sizeof(c->answer);
            assert_int_equal(call(c, TVERSION, "ds", 65536u, "9P2000.L"), 0);
            assert_int_equal(call(c, TATTACH, "ddssd", ROOT, NOFID, "", "", 0u), 0);
        }
        p9_fuzz_compose(c, seed);
        if (client_send(c) == 0)
            good[c->request[4]]++;
        if (i % 50 == 0)
            p9_fuzz_host(c, seed);
        if (i % 500 == 499)
            assert_outside_is_as_it_was(c, &secret);
    }
    p9_server_reset(c->server);
    assert_int_equal(entries("/proc/self/fd"), descriptors - 1);
    assert_outside_is_as_it_was(c, &secret);
    client_destroy(c);
}

/* All that does something. */
static const unsigned types[] = {TSTATFS,   TLOPEN,   TLCREATE, TSYMLINK, TMKNOD, TREADLINK, TGETATTR,
                                 TSETATTR,  TREADDIR, TFSYNC,   TGETLOCK, TLINK,  TMKDIR,    TRENAMEAT,
                                 TUNLINKAT, TWALK,    TREAD,    TWRITE,   TCLUNK, TVERSION,  TATTACH};

static void hostile_clients_get_nowhere(void **state)
{
    (void)state;
    unsigned long good[256] = {0}, done = 0, sum = 0;
    for (uint64_t seed = first_seed; done < messages; done += MESSAGES_OF_A_FOLDER) {
        uint64_t random = seed++ * 0x9e3779b97f4a7c15u + 1;
        client_session(&random, MESSAGES_OF_A_FOLDER, good);
    }
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (!good[types[i]]) /* what is sent makes sense now and then */
            fail_msg("no request of type %u was right", types[i]);
        sum += good[types[i]];
    }
    print_message("%lu requests, %lu answered without an error\n", done, sum);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(hostile_clients_get_nowhere)};
    if (argc > 1)
        messages = strtoul(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    umask(0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
