/* A library to be preloaded: the folder SMALL_DISK holds SMALL_DISK_OCTETS at most, as a file system of that size
   would; whatever writes beyond gets ENOSPC.  No rights are needed for it, unlike for a mount. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether a file may grow to a size. */
static int fits(int fd, off_t size) {
    const char *folder = getenv("SMALL_DISK"), *limit = getenv("SMALL_DISK_OCTETS");
    char link[64], path[4096];
    struct stat file;
    if (folder == NULL || limit == NULL || fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || size <= file.st_size)
        return 1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t prefix = strlen(folder);
    if (length < 0)
        return 1;
    path[length] = '\0';
    if (strncmp(path, folder, prefix) != 0 || path[prefix] != '/')
        return 1;
    DIR *entries = opendir(folder);
    if (entries == NULL)
        return 1;
    off_t used = size - file.st_size;
    struct dirent *entry;
    struct stat each;
    while ((entry = readdir(entries)) != NULL)
        if (fstatat(dirfd(entries), entry->d_name, &each, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(each.st_mode))
            used += each.st_size;
    closedir(entries);
    return used <= atoll(limit);
}

static int refused(int fd, off_t size) {
    int before = errno;
    if (fits(fd, size)) {
        errno = before;
        return 0;
    }
    errno = ENOSPC;
    return 1;
}

#define ORIGINAL(name) __typeof__(&name) original = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t count) {
    ORIGINAL(write);
    off_t place = lseek(fd, 0, SEEK_CUR);
    return place >= 0 && refused(fd, place + (off_t)count) ? -1 : original(fd, data, count);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t place) {
    ORIGINAL(pwrite);
    return refused(fd, place + (off_t)count) ? -1 : original(fd, data, count, place);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t place) {
    ORIGINAL(pwrite64);
    return refused(fd, place + (off_t)count) ? -1 : original(fd, data, count, place);
}

int ftruncate(int fd, off_t size) {
    ORIGINAL(ftruncate);
    return refused(fd, size) ? -1 : original(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    ORIGINAL(ftruncate64);
    return refused(fd, size) ? -1 : original(fd, size);
}
