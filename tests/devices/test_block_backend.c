/* Disks: raw files and qcow2 images, the copy that takes a guest's writes, and files that are no disks. */
#include "tests/devices/fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/block_backend.h"

#define DISK_BYTES ((size_t)4 << 20) /* and three sectors, for a last block that is not whole */
#define DISK_ALL   (DISK_BYTES + (size_t)3 * 512)

struct files {
    char folder[64], raw[96], qcow2[96], temporary[96];
    uint8_t *content; /* of raw and qcow2, at first */
    bool have_qemu;
};

static void make_content(uint8_t *content, size_t length)
{
    uint64_t r = 88172645463325252;
    for (size_t i = 0; i < length; i++) {
        r ^= r << 13;
        r ^= r >> 7;
        r ^= r << 17;
        content[i] = (uint8_t)r;
    }
}

static void write_file(const char *path, const void *data, size_t length)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, length, f), length);
    assert_int_equal(fclose(f), 0);
}

static void assert_file_holds(const char *path, const uint8_t *content, size_t length)
{
    uint8_t *bytes = malloc(length + 1);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fread(bytes, 1, length + 1, f), length);
    fclose(f);
    assert_memory_equal(bytes, content, length);
    free(bytes);
}

static int run(const char *format, const char *a, const char *b)
{
    char line[512];
    snprintf(line, sizeof(line), format, a, b);
    int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int setup(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    strcpy(f->folder, "/tmp/dejavm-block-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->raw, sizeof(f->raw), "%s/raw,disk", f->folder); /* commas are nothing special */
    snprintf(f->qcow2, sizeof(f->qcow2), "%s/a,b.qcow2", f->folder);
    snprintf(f->temporary, sizeof(f->temporary), "%s/temporary", f->folder);
    assert_int_equal(mkdir(f->temporary, 0700), 0);
    setenv("TMPDIR", f->temporary, 1);
    f->content = malloc(DISK_ALL);
    assert_non_null(f->content);
    make_content(f->content, DISK_ALL);
    write_file(f->raw, f->content, DISK_ALL);
    f->have_qemu = run("qemu-img convert -f raw -O qcow2 '%s' '%s' 2>/dev/null", f->raw, f->qcow2) == 0;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct files *f = *state;
    int status = run("rm -rf '%s'%s", f->folder, "");
    unsetenv("TMPDIR");
    free(f->content);
    free(f);
    return status;
}

static struct block_backend *open_disk(struct board_disk disk)
{
    struct block_backend *b = NULL;
    struct error err;
    int status = block_backend_open(&b, &disk, &err);
    if (status)
        fail_msg("%s", err.message);
    return b;
}

/* Random reads, writes and the rest, beside a copy of the disk in memory. */
static void exercise(struct block_backend *b, uint8_t *model, unsigned operations, unsigned seed)
{
    uint8_t *bytes = malloc(DISK_ALL);
    uint64_t r = seed * 0x9e3779b97f4a7c15u + 1;
    assert_int_equal(block_backend_bytes(b), DISK_ALL);
    for (unsigned i = 0; i < operations; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        uint64_t sectors = DISK_ALL / 512, first = (r >> 33) % sectors;
        uint64_t length = 1 + (r >> 20) % (i % 16 ? 20 : 3000);
        length = length < sectors - first ? length : sectors - first;
        size_t at = first * 512, n = length * 512;
        switch (r >> 60) {
        case 0:
            assert_int_equal(block_backend_zero(b, at, n, r >> 59 & 1), 0);
            memset(model + at, 0, n);
            break;
        case 1:
            assert_int_equal(block_backend_flush(b), 0);
            break;
        case 2:
        case 3:
        case 4:
        case 5:
        case 6:
            memset(bytes, (int)(r >> 8), n);
            bytes[n / 2] = (uint8_t)i;
            assert_int_equal(block_backend_write(b, at, bytes, n), 0);
            memcpy(model + at, bytes, n);
            break;
        default:
            assert_int_equal(block_backend_read(b, at, bytes, n), 0);
            assert_memory_equal(bytes, model + at, n);
        }
    }
    assert_int_equal(block_backend_read(b, 0, bytes, DISK_ALL), 0);
    assert_memory_equal(bytes, model, DISK_ALL);
    free(bytes);
}

static uint8_t *copy_of(const uint8_t *content)
{
    uint8_t *model = malloc(DISK_ALL);
    assert_non_null(model);
    memcpy(model, content, DISK_ALL);
    return model;
}

static void writes_go_to_a_copy(void **state)
{
    struct files *f = *state;
    const char *paths[] = {f->raw, f->qcow2};
    for (unsigned i = 0; i < (f->have_qemu ? 2 : 1); i++) {
        uint8_t *model = copy_of(f->content);
        assert_int_equal(run("sha256sum '%s' >'%s/before'", paths[i], f->folder), 0);
        struct block_backend *b = open_disk((struct board_disk){.path = paths[i]});
        exercise(b, model, i ? 400 : 3000, i);
        block_backend_close(b);
        assert_int_equal(run("cd / && sha256sum --quiet -c '%s/before'%s", f->folder, ""), 0);
        b = open_disk((struct board_disk){.path = paths[i]}); /* and the next recording sees none of it */
        assert_int_equal(block_backend_read(b, 0, model, DISK_ALL), 0);
        assert_memory_equal(model, f->content, DISK_ALL);
        block_backend_close(b);
        free(model);
    }
    assert_int_equal(run("test -z \"$(ls -A '%s'%s)\"", f->temporary, ""), 0); /* nothing is left */
}

static void write_through_changes_the_file(void **state)
{
    struct files *f = *state;
    uint8_t *model = copy_of(f->content);
    struct block_backend *b = open_disk((struct board_disk){.path = f->raw, .write_through = true});
    exercise(b, model, 3000, 7);
    assert_int_equal(block_backend_discard(b, 8192, 65536), 0);
    assert_int_equal(block_backend_read(b, 8192, model + 8192, 65536), 0); /* whatever is there now */
    block_backend_close(b);
    assert_file_holds(f->raw, model, DISK_ALL);
    free(model);
}

static void write_through_changes_a_qcow2_image(void **state)
{
    struct files *f = *state;
    if (!f->have_qemu)
        skip();
    uint8_t *model = copy_of(f->content);
    struct block_backend *b = open_disk((struct board_disk){.path = f->qcow2, .write_through = true});
    exercise(b, model, 400, 9);
    assert_int_equal(block_backend_discard(b, 65536, 65536), 0);
    assert_int_equal(block_backend_read(b, 65536, model + 65536, 65536), 0);
    block_backend_close(b);
    assert_int_equal(run("qemu-img convert -f qcow2 -O raw '%s' '%s/after'", f->qcow2, f->folder), 0);
    char after[128];
    snprintf(after, sizeof(after), "%s/after", f->folder);
    assert_file_holds(after, model, DISK_ALL);
    free(model);
}

static void read_only_disks_are_read(void **state)
{
    struct files *f = *state;
    uint8_t bytes[1024];
    assert_int_equal(chmod(f->raw, 0400), 0);
    struct block_backend *b = open_disk((struct board_disk){.path = f->raw, .read_only = true});
    assert_int_equal(block_backend_read(b, DISK_ALL - 1024, bytes, 1024), 0);
    assert_memory_equal(bytes, f->content + DISK_ALL - 1024, 1024);
    block_backend_close(b);
}

static void a_file_that_becomes_shorter_is_an_io_error(void **state)
{
    struct files *f = *state;
    uint8_t bytes[4096];
    struct block_backend *b = open_disk((struct board_disk){.path = f->raw});
    assert_int_equal(truncate(f->raw, 1 << 20), 0);
    assert_int_equal(block_backend_read(b, (1 << 20) - 512, bytes, 4096), -EIO);
    assert_int_equal(block_backend_write(b, (1 << 20) + 512, bytes, 512),
                     -EIO); /* the rest of the block is lost */
    assert_int_equal(block_backend_read(b, (1 << 20) - 512, bytes, 512), 0);
    block_backend_close(b);
}

static void expect_error(struct board_disk disk, int code, const char *text)
{
    struct block_backend *b = NULL;
    struct error err;
    int status = block_backend_open(&b, &disk, &err);
    assert_null(b);
    assert_int_not_equal(status, 0);
    if (!strstr(err.message, text) || !strstr(err.message, disk.path) || (code && status != code))
        fail_msg("%d: %s", status, err.message);
}

static void files_that_are_no_disks_are_refused(void **state)
{
    struct files *f = *state;
    char path[128];
    expect_error((struct board_disk){.path = f->folder}, -EINVAL, "is a directory");
    expect_error((struct board_disk){.path = f->folder, .write_through = true}, -EISDIR, "is a directory");
    expect_error((struct board_disk){.path = "/dev/null"}, -EINVAL, "is a character device");
    snprintf(path, sizeof(path), "%s/none", f->folder);
    expect_error((struct board_disk){.path = path}, -ENOENT, "No such file or directory");
    write_file(path, f->content, 0);
    expect_error((struct board_disk){.path = path}, -EINVAL, "is empty");
    write_file(path, f->content, 511);
    expect_error((struct board_disk){.path = path}, -EINVAL,
                 "has 511 bytes, which is not a multiple of 512: is it cut short?");
    snprintf(path, sizeof(path), "%s/pipe", f->folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_error((struct board_disk){.path = path}, -EINVAL, "is neither a file nor a block device");
    snprintf(path, sizeof(path), "%s/large", f->folder);
    write_file(path, f->content, 512);
    if (truncate(path, ((off_t)1 << 44) + 512) == 0)
        expect_error((struct board_disk){.path = path}, -EFBIG, "more than 16 TiB");
}

static void permission_is_asked_for_what_is_needed(void **state)
{
    struct files *f = *state;
    bool root = geteuid() == 0;
    assert_int_equal(chmod(f->folder, 0755), 0);
    assert_int_equal(chmod(f->temporary, 0777), 0);
    assert_int_equal(chmod(f->raw, 0444), 0);
    if (root)
        assert_int_equal(seteuid(65534), 0);
    block_backend_close(open_disk((struct board_disk){.path = f->raw}));
    expect_error((struct board_disk){.path = f->raw, .write_through = true}, -EACCES, "Permission denied");
    if (root)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(f->raw, 0), 0);
    if (root)
        assert_int_equal(seteuid(65534), 0);
    expect_error((struct board_disk){.path = f->raw}, -EACCES, "Permission denied");
    if (root)
        assert_int_equal(seteuid(0), 0);
    setenv("TMPDIR", "/proc", 1);
    assert_int_equal(chmod(f->raw, 0600), 0);
    expect_error((struct board_disk){.path = f->raw}, 0,
                 "a temporary file for the guest's writes, in /proc (TMPDIR)");
}

static void a_disk_has_one_writer(void **state)
{
    struct files *f = *state;
    struct block_backend *b = open_disk((struct board_disk){.path = f->raw, .write_through = true});
    expect_error((struct board_disk){.path = f->raw}, -EBUSY, "is in use");
    expect_error((struct board_disk){.path = f->raw, .write_through = true}, -EBUSY, "is in use");
    block_backend_close(b);
    b = open_disk((struct board_disk){.path = f->raw});
    struct block_backend *other = open_disk((struct board_disk){.path = f->raw});
    expect_error((struct board_disk){.path = f->raw, .write_through = true}, -EBUSY, "needs it alone");
    block_backend_close(b);
    block_backend_close(other);
}

static void damaged_qcow2_images_are_refused(void **state)
{
    struct files *f = *state;
    char path[128];
    uint8_t bytes[65536] = "QFI\xfb";
    snprintf(path, sizeof(path), "%s/bad", f->folder);
    write_file(path, bytes, 512);
    if (!f->have_qemu) {
        expect_error((struct board_disk){.path = path}, -ENOENT, "needs the program qemu-nbd");
        return;
    }
    expect_error((struct board_disk){.path = path}, 0, "a damaged qcow2 image: ");
    for (unsigned half = 0; half < 2; half++) { /* cut in the tables, and in the data */
        assert_int_equal(run("cp '%s' '%s'", f->qcow2, path), 0);
        assert_int_equal(truncate(path, half ? DISK_BYTES / 2 : 100000), 0);
        expect_error((struct board_disk){.path = path}, 0, "a damaged qcow2 image: ");
    }
}

static void a_missing_program_is_named_with_its_package(void **state)
{
    struct files *f = *state;
    char path[128], before[4096];
    snprintf(before, sizeof(before), "%s", getenv("PATH"));
    snprintf(path, sizeof(path), "%s/image", f->folder);
    write_file(path, "QFI\xfb\0\0\0\3", 8);
    setenv("PATH", f->folder, 1);
    expect_error((struct board_disk){.path = path}, -ENOENT,
                 "is a qcow2 image: that needs the program qemu-nbd (Debian: package qemu-utils)");
    setenv("PATH", before, 1);
}

#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DISK_TEST(writes_go_to_a_copy),
        DISK_TEST(write_through_changes_the_file),
        DISK_TEST(write_through_changes_a_qcow2_image),
        DISK_TEST(read_only_disks_are_read),
        DISK_TEST(a_file_that_becomes_shorter_is_an_io_error),
        DISK_TEST(files_that_are_no_disks_are_refused),
        DISK_TEST(permission_is_asked_for_what_is_needed),
        DISK_TEST(a_disk_has_one_writer),
        DISK_TEST(damaged_qcow2_images_are_refused),
        DISK_TEST(a_missing_program_is_named_with_its_package),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
