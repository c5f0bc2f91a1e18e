/* The file server: what a Linux client does, and what nobody may do. Files are looked at on the host's side. */
#include "tests/devices/p9_client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state)
{
    umask(022);
    *state = client_create(false);
    return 0;
}

static int setup_read_only(void **state)
{
    umask(022);
    *state = client_create(true);
    return 0;
}

static int teardown(void **state)
{
    client_destroy(*state);
    return 0;
}

/* ---- the host's side ---- */

static void host_write(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void assert_host_file(const char *path, const char *text)
{
    char found[4096] = "";
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(found, 1, sizeof(found) - 1, f);
    fclose(f);
    found[n] = 0;
    assert_string_equal(found, text);
}

static const char *secret_path(const struct client *c)
{
    return client_path(c, "../secret");
}

static void assert_secret_is_safe(const struct client *c)
{
    struct stat st;
    assert_host_file(secret_path(c), SECRET);
    assert_int_equal(lstat(secret_path(c), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0644);
    assert_int_equal(st.st_nlink, 1);
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

/* ---- short forms ---- */

static void assert_read(struct client *c, uint32_t fid, const char *text)
{
    assert_int_equal(call(c, TREAD, "dqd", fid, (uint64_t)0, 4096u), 0);
    size_t n = take(c, 4);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(c->at, text, n);
}

static int write_text(struct client *c, uint32_t fid, uint64_t offset, const char *text)
{
    return call(c, TWRITE, "dqdB", fid, offset, (unsigned)strlen(text), (const void *)text, strlen(text));
}

/* The fid of a new file in the root, open for reading and writing. */
static void make_file(struct client *c, uint32_t fid, const char *name)
{
    assert_int_equal(walk_to(c, fid, ""), 0);
    assert_int_equal(call(c, TLCREATE, "dsddd", fid, name, (unsigned)(O_RDWR | O_CREAT | O_EXCL), 0644u, 0u),
                     0);
}

/* ---- sessions ---- */

static void version_and_message_size_are_agreed_on(void **state)
{
    struct client *c = *state;
    char name[16] = "";
    assert_int_equal(call(c, TVERSION, "ds", 8192u, "9P2000.L"), 0);
    assert_int_equal(take(c, 4), 8192);
    assert_int_equal(take(c, 2), 8);
    memcpy(name, c->at, 8);
    assert_string_equal(name, "9P2000.L");
    assert_int_equal(call(c, TVERSION, "ds", UINT32_MAX, "9P2000.L"), 0);
    assert_int_equal(take(c, 4), P9_MESSAGE_MAX);
    assert_int_equal(call(c, TVERSION, "ds", 4095u, "9P2000.L"), EMSGSIZE);
    /* Another dialect: no session. */
    assert_int_equal(call(c, TVERSION, "ds", 8192u, "9P2000.u"), 0);
    take(c, 4);
    assert_int_equal(take(c, 2), 7);
    assert_memory_equal(c->at, "unknown", 7);
    assert_int_equal(call(c, TATTACH, "ddssd", ROOT, NOFID, "", "", 0u), EPROTO);
}

static void a_new_session_forgets_all_fids(void **state)
{
    struct client *c = *state;
    unsigned before = open_descriptors();
    for (uint32_t fid = 1; fid <= 20; fid++)
        assert_int_equal(walk_to(c, fid, ""), 0);
    assert_int_equal(open_descriptors(), before + 20);
    assert_int_equal(call(c, TVERSION, "ds", 8192u, "9P2000.L"), 0);
    assert_int_equal(open_descriptors(), before - 1);
    assert_int_equal(call(c, TGETATTR, "dq", ROOT, (uint64_t)0x7ff), EBADF);
}

static void only_the_whole_tree_can_be_attached(void **state)
{
    struct client *c = *state;
    assert_int_equal(call(c, TATTACH, "ddssd", 5u, NOFID, "root", "/", 0u), 0);
    assert_int_equal(take(c, 1), 0x80);
    assert_int_equal(call(c, TATTACH, "ddssd", 6u, NOFID, "root", "/etc", 0u), ENOENT);
    assert_int_equal(call(c, TATTACH, "ddssd", 6u, NOFID, "root", "..", 0u), ENOENT);
    assert_int_equal(call(c, TATTACH, "ddssd", 5u, NOFID, "root", "", 0u), EBADF);
    assert_int_equal(call(c, TAUTH, "dssd", 9u, "root", "", 0u), EOPNOTSUPP);
}

/* ---- files ---- */

static void a_file_is_made_written_and_read(void **state)
{
    struct client *c = *state;
    make_file(c, 1, "hello");
    assert_int_equal(write_text(c, 1, 0, "Hello, host"), 0);
    assert_int_equal(take(c, 4), 11);
    assert_int_equal(write_text(c, 1, 7, "guest"), 0);
    assert_host_file(client_path(c, "hello"), "Hello, guest");
    assert_read(c, 1, "Hello, guest");
    assert_int_equal(call(c, TFSYNC, "dd", 1u, 0u), 0);
    assert_int_equal(call(c, TREAD, "dqd", 1u, (uint64_t)12, 100u), 0);
    assert_int_equal(take(c, 4), 0);
    assert_int_equal(call(c, TCLUNK, "d", 1u), 0);
    assert_int_equal(call(c, TCLUNK, "d", 1u), EBADF);
    host_write(client_path(c, "from-host"), "Hello, guest!");
    assert_int_equal(walk_to(c, 2, "from-host"), 0);
    assert_int_equal(call(c, TREAD, "dqd", 2u, (uint64_t)0, 100u), EBADF); /* not open yet */
    assert_int_equal(call(c, TLOPEN, "dd", 2u, (unsigned)O_RDONLY), 0);
    assert_read(c, 2, "Hello, guest!");
    assert_int_equal(write_text(c, 2, 0, "x"), EBADF);
}

static void open_flags_are_followed(void **state)
{
    struct client *c = *state;
    host_write(client_path(c, "f"), "12345");
    assert_int_equal(walk_to(c, 1, "f"), 0);
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)(O_WRONLY | O_APPEND)), 0);
    assert_int_equal(write_text(c, 1, 0, "6"), 0);
    assert_host_file(client_path(c, "f"), "123456");
    assert_int_equal(call(c, TREAD, "dqd", 1u, (uint64_t)0, 100u), EBADF);
    assert_int_equal(walk_to(c, 2, "f"), 0);
    assert_int_equal(call(c, TLOPEN, "dd", 2u, (unsigned)(O_RDWR | O_TRUNC)), 0);
    assert_host_file(client_path(c, "f"), "");
    assert_int_equal(call(c, TLOPEN, "dd", 2u, (unsigned)O_RDONLY), EBADF); /* open already */
    assert_int_equal(call(c, TWALK, "ddw", 2u, 3u, 0u), EBADF);
    assert_int_equal(walk_to(c, 4, ""), 0);
    assert_int_equal(call(c, TLOPEN, "dd", 4u, (unsigned)O_WRONLY), EISDIR);
    assert_int_equal(call(c, TLOPEN, "dd", 4u, 3u), EINVAL);
}

static void creation_over_a_file_that_is_there(void **state)
{
    struct client *c = *state;
    host_write(client_path(c, "f"), "12345");
    assert_int_equal(walk_to(c, 1, ""), 0);
    assert_int_equal(call(c, TLCREATE, "dsddd", 1u, "f", (unsigned)(O_RDWR | O_EXCL), 0644u, 0u), EEXIST);
    assert_int_equal(call(c, TLCREATE, "dsddd", 1u, "f", (unsigned)O_RDWR, 0644u, 0u), 0);
    assert_read(c, 1, "12345");
}

static void an_open_file_outlives_its_name(void **state)
{
    struct client *c = *state;
    make_file(c, 1, "f");
    assert_int_equal(walk_to(c, 2, "f"), 0);
    assert_int_equal(write_text(c, 1, 0, "still here"), 0);
    assert_int_equal(call(c, TUNLINKAT, "dsd", ROOT, "f", 0u), 0);
    assert_int_equal(access(client_path(c, "f"), F_OK), -1);
    assert_read(c, 1, "still here");
    assert_int_equal(call(c, TGETATTR, "dq", 2u, (uint64_t)0x7ff), 0);
    assert_int_equal(walk_to(c, 3, "f"), ENOENT);
}

static void attributes_are_those_of_the_host(void **state)
{
    struct client *c = *state;
    struct stat st;
    host_write(client_path(c, "f"), "12345");
    assert_int_equal(chmod(client_path(c, "f"), 0640), 0);
    assert_int_equal(stat(client_path(c, "f"), &st), 0);
    assert_int_equal(walk_to(c, 1, "f"), 0);
    assert_int_equal(call(c, TGETATTR, "dq", 1u, (uint64_t)0x7ff), 0);
    assert_int_equal(take(c, 8), 0x7ff);
    assert_int_equal(take(c, 1), 0);
    take(c, 4);
    assert_int_equal(take(c, 8), st.st_ino);
    assert_int_equal(take(c, 4), st.st_mode);
    assert_int_equal(take(c, 4), st.st_uid);
    assert_int_equal(take(c, 4), st.st_gid);
    assert_int_equal(take(c, 8), st.st_nlink);
    assert_int_equal(take(c, 8), 0);
    assert_int_equal(take(c, 8), 5);
    assert_int_equal(take(c, 8), st.st_blksize);
    assert_int_equal(take(c, 8), st.st_blocks);
    assert_int_equal(take(c, 8), st.st_atim.tv_sec);
    assert_int_equal(take(c, 8), st.st_atim.tv_nsec);
    assert_int_equal(take(c, 8), st.st_mtim.tv_sec);
    assert_int_equal(call(c, TSTATFS, "d", 1u), 0);
    assert_int_equal(c->end - c->at, 60);
}

static int setattr(struct client *c, uint32_t fid, uint32_t valid, uint32_t mode, uint32_t uid, uint64_t size,
                   uint64_t mtime)
{
    return call(c, TSETATTR, "dddddqqqqq", fid, valid, mode, uid, 0u, size, (uint64_t)0, (uint64_t)0, mtime,
                (uint64_t)5);
}

static void attributes_can_be_set_but_for_owner_and_special_bits(void **state)
{
    struct client *c = *state;
    struct stat st;
    make_file(c, 1, "f");
    assert_int_equal(write_text(c, 1, 0, "123456789"), 0);
    assert_int_equal(walk_to(c, 2, "f"), 0);
    assert_int_equal(setattr(c, 2, 0x1, 06751, 0, 0, 0), 0);
    assert_int_equal(setattr(c, 2, 0x8, 0, 0, 4, 0), 0);
    assert_int_equal(setattr(c, 2, 0x20 | 0x100, 0, 0, 0, 1000000), 0);
    assert_int_equal(stat(client_path(c, "f"), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0751);
    assert_int_equal(st.st_size, 4);
    assert_int_equal(st.st_mtim.tv_sec, 1000000);
    assert_int_equal(st.st_mtim.tv_nsec, 5);
    assert_int_equal(setattr(c, 2, 0x2, 0, st.st_uid, 0, 0), 0); /* it is that already */
    assert_int_equal(setattr(c, 2, 0x2, 0, st.st_uid + 1, 0, 0), EPERM);
    assert_int_equal(setattr(c, 1, 0x8, 0, 0, 2, 0), 0); /* by the open file */
    assert_host_file(client_path(c, "f"), "12");
    assert_int_equal(setattr(c, 2, 0x8, 0, 0, UINT64_MAX, 0), EINVAL);
    assert_int_equal(setattr(c, ROOT, 0x8, 0, 0, 0, 0), EISDIR);
}

static void created_modes_have_no_special_bits(void **state)
{
    struct client *c = *state;
    struct stat st;
    assert_int_equal(walk_to(c, 1, ""), 0);
    assert_int_equal(call(c, TLCREATE, "dsddd", 1u, "f", (unsigned)O_RDWR, 07755u, 0u), 0);
    assert_int_equal(call(c, TMKDIR, "dsdd", ROOT, "d", 06755u, 0u), 0);
    assert_int_equal(call(c, TMKNOD, "dsdddd", ROOT, "n", (unsigned)(S_IFREG | 06755), 0u, 0u, 0u), 0);
    assert_int_equal(stat(client_path(c, "f"), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0755);
    assert_int_equal(stat(client_path(c, "d"), &st), 0);
    assert_int_equal(st.st_mode, S_IFDIR | 0755);
    assert_int_equal(stat(client_path(c, "n"), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0755);
}

/* ---- names ---- */

static void folders_links_and_names_can_be_changed(void **state)
{
    struct client *c = *state;
    char target[64] = "";
    struct stat a, b;
    assert_int_equal(call(c, TMKDIR, "dsdd", ROOT, "d", 0755u, 0u), 0);
    assert_int_equal(take(c, 1), 0x80);
    make_file(c, 1, "f");
    assert_int_equal(walk_to(c, 2, "d"), 0);
    assert_int_equal(call(c, TRENAMEAT, "dsds", ROOT, "f", 2u, "g"), 0);
    assert_int_equal(access(client_path(c, "d/g"), F_OK), 0);
    assert_int_equal(access(client_path(c, "f"), F_OK), -1);
    assert_int_equal(call(c, TRENAMEAT, "dsds", ROOT, "d", 2u, "inside-itself"), EINVAL);
    assert_int_equal(walk_to(c, 3, "d/g"), 0);
    assert_int_equal(call(c, TLINK, "dds", ROOT, 3u, "h"), 0);
    assert_int_equal(stat(client_path(c, "d/g"), &a), 0);
    assert_int_equal(stat(client_path(c, "h"), &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_int_equal(call(c, TSYMLINK, "dssd", 2u, "l", "../h", 0u), 0);
    assert_int_equal(take(c, 1), 0x02);
    assert_int_equal(readlink(client_path(c, "d/l"), target, sizeof(target)), 4);
    assert_string_equal(target, "../h");
    assert_int_equal(walk_to(c, 4, "d/l"), 0);
    assert_int_equal(call(c, TREADLINK, "d", 4u), 0);
    assert_int_equal(take(c, 2), 4);
    assert_memory_equal(c->at, "../h", 4);
    assert_int_equal(call(c, TREADLINK, "d", 3u), EINVAL);
    assert_int_equal(call(c, TUNLINKAT, "dsd", ROOT, "d", 0u), EISDIR);
    assert_int_equal(call(c, TUNLINKAT, "dsd", ROOT, "d", (unsigned)AT_REMOVEDIR), ENOTEMPTY);
    assert_int_equal(call(c, TUNLINKAT, "dsd", 2u, "l", 0u), 0);
    assert_int_equal(call(c, TUNLINKAT, "dsd", 2u, "g", 0u), 0);
    assert_int_equal(call(c, TUNLINKAT, "dsd", ROOT, "d", (unsigned)AT_REMOVEDIR), 0);
    assert_int_equal(access(client_path(c, "d"), F_OK), -1);
    assert_int_equal(call(c, TUNLINKAT, "dsd", ROOT, "h", 0x8000u), EINVAL);
    assert_host_file(client_path(c, "h"), "");
}

static void walks_go_as_far_as_they_can(void **state)
{
    struct client *c = *state;
    assert_int_equal(mkdir(client_path(c, "a"), 0755), 0);
    assert_int_equal(mkdir(client_path(c, "a/b"), 0755), 0);
    assert_int_equal(walk_to(c, 1, "a/b"), 0);
    assert_int_equal(c->end - c->at, 2 * 13);
    assert_int_equal(walk_to(c, 2, "x/b"), ENOENT);
    assert_int_equal(call(c, TWALK, "ddwss", ROOT, 2u, 2u, "a", "x"), 0);
    assert_int_equal(take(c, 2), 1);
    assert_int_equal(call(c, TCLUNK, "d", 2u), EBADF); /* no fid of a walk that was not done */
    assert_int_equal(call(c, TWALK, "ddws", ROOT, 1u, 1u, "a"), EBADF); /* in use */
    assert_int_equal(call(c, TWALK, "ddws", 1u, 1u, 1u, ".."), 0);      /* in place */
    assert_int_equal(take(c, 2), 1);
    assert_int_equal(call(c, TWALK, "ddws", 1u, 3u, 1u, "b"), 0);
    assert_int_equal(call(c, TWALK, "ddw", ROOT, 4u, 17u), EPROTO);
}

static void fids_follow_a_folder_that_is_renamed(void **state)
{
    struct client *c = *state;
    assert_int_equal(mkdir(client_path(c, "a"), 0755), 0);
    host_write(client_path(c, "a/f"), "in a");
    assert_int_equal(walk_to(c, 1, "a"), 0);
    assert_int_equal(call(c, TRENAMEAT, "dsds", ROOT, "a", ROOT, "b"), 0);
    assert_int_equal(call(c, TWALK, "ddws", 1u, 2u, 1u, "f"), 0);
    assert_int_equal(call(c, TLOPEN, "dd", 2u, (unsigned)O_RDONLY), 0);
    assert_read(c, 2, "in a");
}

/* Reads the folder with answers of at most count bytes; every name must come once. Returns how many there were. */
static unsigned count_names(struct client *c, uint32_t fid, unsigned count, bool *seen, unsigned most)
{
    uint64_t offset = 0;
    unsigned found = 0;
    for (;;) {
        assert_int_equal(call(c, TREADDIR, "dqd", fid, offset, count), 0);
        size_t length = take(c, 4);
        assert_true(length <= count);
        assert_int_equal(c->end - c->at, length);
        if (length == 0)
            return found;
        while (c->at < c->end) {
            char name[256] = "";
            take(c, 1 + 4);
            take(c, 8);
            offset = take(c, 8);
            take(c, 1);
            size_t n = take(c, 2);
            assert_true(n < sizeof(name) && n <= (size_t)(c->end - c->at));
            memcpy(name, c->at, n);
            c->at += n;
            unsigned number;
            if (sscanf(name, "file-%u", &number) == 1 && number < most) {
                assert_false(seen[number]);
                seen[number] = true;
                found++;
            } else {
                assert_true(strcmp(name, ".") == 0 || strcmp(name, "..") == 0);
            }
        }
    }
}

static void large_folders_are_listed_in_pieces(void **state)
{
    enum { FILES = 3000 };
    struct client *c = *state;
    for (unsigned i = 0; i < FILES; i++) {
        char name[32];
        snprintf(name, sizeof(name), "file-%u", i);
        host_write(client_path(c, name), "");
    }
    assert_int_equal(walk_to(c, 1, ""), 0);
    assert_int_equal(call(c, TREADDIR, "dqd", 1u, (uint64_t)0, 4096u), EBADF); /* not open */
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)O_RDONLY), 0);
    static const unsigned counts[] = {64, 4000, 60000};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        bool seen[FILES] = {false};
        assert_int_equal(count_names(c, 1, counts[i], seen, FILES), FILES);
    }
    assert_int_equal(call(c, TREADDIR, "dqd", 1u, (uint64_t)0, 20u), EINVAL); /* not even one */
    make_file(c, 2, "f");
    assert_int_equal(call(c, TREADDIR, "dqd", 2u, (uint64_t)0, 4096u), ENOTDIR);
}

/* ---- what is out of reach ---- */

static void names_lead_nowhere_but_down(void **state)
{
    struct client *c = *state;
    static const char *const bad[] = {"..", ".", "", "../secret", "d/x", "/etc/passwd", "a/../../secret"};
    make_file(c, 1, "f");
    assert_int_equal(call(c, TMKDIR, "dsdd", ROOT, "d", 0755u, 0u), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *name = bad[i];
        assert_int_equal(walk_to(c, 2, ""), 0);
        assert_int_not_equal(call(c, TLCREATE, "dsddd", 2u, name, (unsigned)O_RDWR, 0644u, 0u), 0);
        assert_int_not_equal(call(c, TLCREATE, "dsddd", 2u, name, (unsigned)(O_RDWR | O_TRUNC), 0644u, 0u),
                             0);
        assert_int_equal(call(c, TCLUNK, "d", 2u), 0);
        assert_int_not_equal(call(c, TMKDIR, "dsdd", ROOT, name, 0755u, 0u), 0);
        assert_int_not_equal(call(c, TSYMLINK, "dssd", ROOT, name, "x", 0u), 0);
        assert_int_not_equal(call(c, TMKNOD, "dsdddd", ROOT, name, (unsigned)S_IFREG, 0u, 0u, 0u), 0);
        assert_int_not_equal(call(c, TLINK, "dds", ROOT, 1u, name), 0);
        assert_int_not_equal(call(c, TRENAMEAT, "dsds", ROOT, "f", ROOT, name), 0);
        assert_int_not_equal(call(c, TRENAMEAT, "dsds", ROOT, name, ROOT, "g"), 0);
        assert_int_not_equal(call(c, TUNLINKAT, "dsd", ROOT, name, 0u), 0);
        assert_int_not_equal(call(c, TUNLINKAT, "dsd", ROOT, name, (unsigned)AT_REMOVEDIR), 0);
        if (strcmp(name, "..") != 0)
            assert_int_not_equal(call(c, TWALK, "ddws", ROOT, 3u, 1u, name), 0);
    }
    /* A NUL would cut a name short. */
    assert_int_equal(call(c, TUNLINKAT, "dwBd", ROOT, 3u, (const void *)"f\0x", (size_t)3, 0u), EINVAL);
    assert_int_equal(access(client_path(c, "f"), F_OK), 0);
    assert_secret_is_safe(c);
}

static void the_parent_of_the_root_is_the_root(void **state)
{
    struct client *c = *state;
    struct stat st;
    assert_int_equal(stat(c->folder, &st), 0);
    assert_int_equal(mkdir(client_path(c, "d"), 0755), 0);
    assert_int_equal(walk_to(c, 1, "../../d/../../.."), 0);
    assert_int_equal(call(c, TGETATTR, "dq", 1u, (uint64_t)0x7ff), 0);
    take(c, 8);
    take(c, 1);
    take(c, 4);
    assert_int_equal(take(c, 8), st.st_ino);
    assert_int_equal(walk_to(c, 2, "../secret"), -1); /* stays: ".." is walked, "secret" is not there */
}

static void a_folder_moved_away_is_no_way_out(void **state)
{
    struct client *c = *state;
    assert_int_equal(mkdir(client_path(c, "d"), 0755), 0);
    assert_int_equal(mkdir(client_path(c, "d/e"), 0755), 0);
    assert_int_equal(walk_to(c, 1, "d"), 0);
    assert_int_equal(walk_to(c, 2, "d/e"), 0);
    assert_int_equal(rename(client_path(c, "d"), client_path(c, "../moved")), 0);
    assert_int_equal(call(c, TWALK, "ddws", 1u, 3u, 1u, ".."), ENOENT);
    assert_int_equal(call(c, TWALK, "ddws", 2u, 3u, 1u, ".."), ENOENT);
}

static void links_are_not_followed(void **state)
{
    struct client *c = *state;
    struct stat st;
    assert_int_equal(symlink(secret_path(c), client_path(c, "absolute")), 0);
    assert_int_equal(symlink("../secret", client_path(c, "relative")), 0);
    assert_int_equal(symlink("..", client_path(c, "folder")), 0);
    static const char *const links[] = {"absolute", "relative", "folder"};
    for (size_t i = 0; i < ARRAY_LEN(links); i++) {
        assert_int_equal(walk_to(c, 1, links[i]), 0);
        assert_int_equal(take(c, 1), 0x02); /* the link itself */
        assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)O_RDONLY), ELOOP);
        assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)(O_WRONLY | O_TRUNC)), ELOOP);
        assert_int_equal(setattr(c, 1, 0x1, 0777, 0, 0, 0), EOPNOTSUPP);
        assert_int_equal(setattr(c, 1, 0x8, 0, 0, 0, 0), EINVAL);
        assert_int_equal(setattr(c, 1, 0x20 | 0x100, 0, 0, 0, 1000000), 0); /* the link's own time */
        assert_int_equal(lstat(client_path(c, links[i]), &st), 0);
        assert_int_equal(st.st_mtim.tv_sec, 1000000);
        assert_int_equal(call(c, TLINK, "dds", ROOT, 1u, "hard"), EPERM);
        assert_int_equal(call(c, TWALK, "ddws", 1u, 2u, 1u, "secret"), ENOTDIR);
        assert_int_equal(call(c, TMKDIR, "dsdd", 1u, "x", 0755u, 0u), ENOTDIR);
        assert_int_equal(call(c, TUNLINKAT, "dsd", 1u, "secret", 0u), ENOTDIR);
        assert_int_equal(call(c, TWALK, "ddws", 1u, 2u, 1u, ".."), ENOTDIR);
        assert_int_equal(call(c, TCLUNK, "d", 1u), 0);
        assert_int_equal(walk_to(c, 1, ""), 0);
        assert_int_equal(call(c, TLCREATE, "dsddd", 1u, links[i], (unsigned)(O_RDWR | O_TRUNC), 0644u, 0u),
                         ELOOP);
        assert_int_equal(call(c, TCLUNK, "d", 1u), 0);
    }
    assert_int_equal(stat(secret_path(c), &st), 0);
    assert_int_not_equal(st.st_mtim.tv_sec, 1000000);
    assert_secret_is_safe(c);
}

static void devices_and_fifos_are_neither_opened_nor_made(void **state)
{
    struct client *c = *state;
    assert_int_equal(mkfifo(client_path(c, "fifo"), 0666), 0);
    assert_int_equal(walk_to(c, 1, "fifo"), 0);
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)O_RDONLY), EACCES); /* at once */
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)O_WRONLY), EACCES);
    assert_int_equal(walk_to(c, 2, ""), 0);
    assert_int_equal(call(c, TLCREATE, "dsddd", 2u, "fifo", (unsigned)O_WRONLY, 0644u, 0u), EACCES);
    static const unsigned kinds[] = {S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, S_IFDIR, S_IFLNK};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        assert_int_equal(call(c, TMKNOD, "dsdddd", ROOT, "node", kinds[i] | 0666, 1u, 3u, 0u), EPERM);
    assert_int_equal(access(client_path(c, "node"), F_OK), -1);
}

static void a_read_only_share_cannot_be_changed(void **state)
{
    struct client *c = *state;
    struct stat before, after;
    host_write(client_path(c, "f"), "12345");
    assert_int_equal(mkdir(client_path(c, "d"), 0755), 0);
    assert_int_equal(stat(client_path(c, "f"), &before), 0);
    assert_int_equal(walk_to(c, 1, "f"), 0);
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)O_WRONLY), EROFS);
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)O_RDWR), EROFS);
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)(O_RDONLY | O_TRUNC)), EROFS);
    assert_int_equal(setattr(c, 1, 0x1, 0777, 0, 0, 0), EROFS);
    assert_int_equal(setattr(c, 1, 0x20, 0, 0, 0, 0), EROFS);
    assert_int_equal(call(c, TLINK, "dds", ROOT, 1u, "g"), EROFS);
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)O_RDONLY), 0);
    assert_read(c, 1, "12345");
    assert_int_equal(write_text(c, 1, 0, "x"), EBADF);
    assert_int_equal(walk_to(c, 2, ""), 0);
    assert_int_equal(call(c, TLCREATE, "dsddd", 2u, "g", (unsigned)O_RDONLY, 0644u, 0u), EROFS);
    assert_int_equal(call(c, TLCREATE, "dsddd", 2u, "f", (unsigned)O_RDONLY, 0644u, 0u), EROFS);
    assert_int_equal(call(c, TMKDIR, "dsdd", ROOT, "g", 0755u, 0u), EROFS);
    assert_int_equal(call(c, TSYMLINK, "dssd", ROOT, "g", "f", 0u), EROFS);
    assert_int_equal(call(c, TMKNOD, "dsdddd", ROOT, "g", (unsigned)S_IFREG, 0u, 0u, 0u), EROFS);
    assert_int_equal(call(c, TRENAMEAT, "dsds", ROOT, "f", ROOT, "g"), EROFS);
    assert_int_equal(call(c, TUNLINKAT, "dsd", ROOT, "f", 0u), EROFS);
    assert_int_equal(call(c, TUNLINKAT, "dsd", ROOT, "d", (unsigned)AT_REMOVEDIR), EROFS);
    assert_int_equal(stat(client_path(c, "f"), &after), 0);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    assert_int_equal(before.st_ctim.tv_nsec, after.st_ctim.tv_nsec);
    assert_int_equal(access(client_path(c, "g"), F_OK), -1);
}

/* ---- bounds ---- */

static void fids_are_limited_and_given_back(void **state)
{
    struct client *c = *state;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < 2 * P9_FIDS_MAX)
        skip();
    limit.rlim_cur = 2 * P9_FIDS_MAX;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    unsigned before = open_descriptors();
    for (uint32_t i = 1; i < P9_FIDS_MAX; i++)
        assert_int_equal(walk_to(c, i * 1024, ""), 0); /* all in one bucket */
    assert_int_equal(walk_to(c, 1, ""), ENFILE);
    assert_int_equal(open_descriptors(), before + P9_FIDS_MAX - 1);
    assert_int_equal(call(c, TCLUNK, "d", 1024u), 0);
    assert_int_equal(walk_to(c, 1, ""), 0);
    for (uint32_t i = 2; i < P9_FIDS_MAX; i++)
        assert_int_equal(call(c, TREMOVE, "d", i * 1024), EOPNOTSUPP); /* clunks */
    assert_int_equal(open_descriptors(), before + 1);
}

static void no_descriptors_left_is_an_error_of_the_request(void **state)
{
    struct client *c = *state;
    struct rlimit old, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    few = old;
    few.rlim_cur = open_descriptors() + 5;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    int error = 0;
    for (uint32_t fid = 1; fid < 50 && !error; fid++)
        error = walk_to(c, fid, "");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(error, EMFILE);
    assert_int_equal(walk_to(c, 100, ""), 0);
}

static void answers_stay_within_their_room(void **state)
{
    struct client *c = *state;
    char text[2000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = 0;
    host_write(client_path(c, "f"), text);
    assert_int_equal(walk_to(c, 1, "f"), 0);
    assert_int_equal(call(c, TLOPEN, "dd", 1u, (unsigned)O_RDONLY), 0);
    c->room = 1000;
    assert_int_equal(call(c, TREAD, "dqd", 1u, (uint64_t)0, 4096u), 0);
    assert_int_equal(take(c, 4), 1000 - 11);
    c->room = P9_ANSWER_MIN;
    assert_int_equal(call(c, TGETATTR, "dq", 1u, (uint64_t)0x7ff), EMSGSIZE);
    assert_int_equal(call(c, TREAD, "dqd", 1u, (uint64_t)0, 4096u), 0);
    assert_int_equal(take(c, 4), 0);
    uint8_t answer[P9_ANSWER_MIN];
    assert_int_equal(p9_server_answer(c->server, c->request, c->request_length, answer, P9_ANSWER_MIN - 1),
                     0);
    /* And within the size agreed on. */
    c->room = sizeof(c->answer);
    assert_int_equal(call(c, TVERSION, "ds", 4096u, "9P2000.L"), 0);
    assert_int_equal(call(c, TATTACH, "ddssd", ROOT, NOFID, "", "", 0u), 0);
    make_file(c, 1, "g");
    assert_int_equal(setattr(c, 1, 0x8, 0, 0, 1 << 20, 0), 0);
    assert_int_equal(call(c, TREAD, "dqd", 1u, (uint64_t)0, UINT32_MAX), 0);
    assert_int_equal(take(c, 4), 4096 - 11);
}

static void hostile_offsets_are_errors(void **state)
{
    struct client *c = *state;
    make_file(c, 1, "f");
    assert_int_equal(call(c, TREAD, "dqd", 1u, UINT64_MAX, 10u), EINVAL);
    assert_int_equal(call(c, TREAD, "dqd", 1u, (uint64_t)1 << 62, 10u), 0);
    assert_int_equal(take(c, 4), 0);
    assert_int_equal(write_text(c, 1, UINT64_MAX - 1, "x"), EINVAL);
    assert_int_not_equal(write_text(c, 1, (uint64_t)INT64_MAX, "x"), 0);
    assert_int_equal(call(c, TWRITE, "dqd", 1u, (uint64_t)0, UINT32_MAX), EPROTO);
    assert_int_equal(call(c, TWRITE, "dqdB", 1u, (uint64_t)0, 6u, (const void *)"12345", (size_t)5), EPROTO);
    assert_host_file(client_path(c, "f"), "");
    assert_int_equal(walk_to(c, 2, ""), 0);
    assert_int_equal(call(c, TLOPEN, "dd", 2u, (unsigned)O_RDONLY), 0);
    assert_int_not_equal(call(c, TREADDIR, "dqd", 2u, UINT64_MAX, 4096u), 0);
}

/* Every request, cut at every length. Where its first field is not whole, nothing but an error is right. */
static void cut_messages_are_errors(void **state)
{
    struct client *c = *state;
    static const unsigned types[] = {TSTATFS,  TLOPEN,   TLCREATE, TSYMLINK, TMKNOD, TREADLINK, TGETATTR,
                                     TSETATTR, TREADDIR, TFSYNC,   TLINK,    TMKDIR, TRENAMEAT, TUNLINKAT,
                                     TGETLOCK, TATTACH,  TWALK,    TREAD,    TWRITE, TCLUNK,    TVERSION};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        for (size_t length = 0; length < 71; length++) {
            client_compose(c, types[i], "qqqqqqqq", (uint64_t)0, (uint64_t)0, (uint64_t)0, (uint64_t)0,
                           (uint64_t)0, (uint64_t)0, (uint64_t)0, (uint64_t)0);
            c->request_length = length;
            if (length >= 4) { /* its size is right: what it lacks is fields */
                c->request[0] = (uint8_t)length;
                c->request[1] = c->request[2] = c->request[3] = 0;
            }
            int error = client_send(c);
            if (length < 7 + 4)
                assert_int_equal(error, EPROTO);
        }
    }
    (void)call(c, TATTACH, "ddssd", ROOT, NOFID, "", "", 0u);
    client_compose(c, TGETATTR, "dq", ROOT, (uint64_t)0);
    c->request[0]++; /* says that it is longer than it is */
    assert_int_equal(client_send(c), EPROTO);
    assert_int_equal(call(c, 99, "d", ROOT), EOPNOTSUPP);
    assert_int_equal(call(c, TRENAME, "dds", ROOT, ROOT, "x"), EOPNOTSUPP);
    assert_int_equal(call(c, TXATTRWALK, "dds", ROOT, 9u, "user.x"), EOPNOTSUPP);
}

static void locks_are_the_clients_own(void **state)
{
    struct client *c = *state;
    make_file(c, 1, "f");
    assert_int_equal(call(c, TLOCK, "dbdqqds", 1u, 1u, 0u, (uint64_t)0, (uint64_t)10, 77u, "guest"), 0);
    assert_int_equal(take(c, 1), 0);
    assert_int_equal(call(c, TGETLOCK, "dbqqds", 1u, 1u, (uint64_t)3, (uint64_t)10, 77u, "guest"), 0);
    assert_int_equal(take(c, 1), 2); /* F_UNLCK */
    assert_int_equal(take(c, 8), 3);
    assert_int_equal(call(c, TFLUSH, "w", 5u), 0);
}

static void what_cannot_be_shared_is_named(void **state)
{
    (void)state;
    struct p9_server *s = NULL;
    struct error err;
    assert_int_equal(p9_server_create(&s, "/nonexistent/folder", false, &err), -ENOENT);
    assert_string_equal(err.message, "shared folder /nonexistent/folder: No such file or directory");
    assert_int_equal(p9_server_create(&s, "/proc/self/exe", false, &err), -ENOTDIR);
    assert_null(s);
}

#define TEST(name)           cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_READ_ONLY(name) cmocka_unit_test_setup_teardown(name, setup_read_only, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(version_and_message_size_are_agreed_on),
        TEST(a_new_session_forgets_all_fids),
        TEST(only_the_whole_tree_can_be_attached),
        TEST(a_file_is_made_written_and_read),
        TEST(open_flags_are_followed),
        TEST(creation_over_a_file_that_is_there),
        TEST(an_open_file_outlives_its_name),
        TEST(attributes_are_those_of_the_host),
        TEST(attributes_can_be_set_but_for_owner_and_special_bits),
        TEST(created_modes_have_no_special_bits),
        TEST(folders_links_and_names_can_be_changed),
        TEST(walks_go_as_far_as_they_can),
        TEST(fids_follow_a_folder_that_is_renamed),
        TEST(large_folders_are_listed_in_pieces),
        TEST(names_lead_nowhere_but_down),
        TEST(the_parent_of_the_root_is_the_root),
        TEST(a_folder_moved_away_is_no_way_out),
        TEST(links_are_not_followed),
        TEST(devices_and_fifos_are_neither_opened_nor_made),
        TEST_READ_ONLY(a_read_only_share_cannot_be_changed),
        TEST(fids_are_limited_and_given_back),
        TEST(no_descriptors_left_is_an_error_of_the_request),
        TEST(answers_stay_within_their_room),
        TEST(hostile_offsets_are_errors),
        TEST(cut_messages_are_errors),
        TEST(locks_are_the_clients_own),
        cmocka_unit_test(what_cannot_be_shared_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
