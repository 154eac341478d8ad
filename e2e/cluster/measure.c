/* Stands in a plugin's place, runs it (PATH.real) and writes a line to MEASURED: its verb, and the CPU time of the plugin and of all
 * that it ran and waited for, in microseconds (wait4(2); the sum is exact, user and system apart are not). Part of `compare`. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static long micros(struct timeval t) { return t.tv_sec * 1000000L + t.tv_usec; }

int main(int argc, char **argv)
{
	char path[4096], line[512];
	const char *verb = getenv("CNI_COMMAND");
	struct rusage used;
	int status, log;
	pid_t child;
	(void)argc;
	if (snprintf(path, sizeof path, "%s.real", argv[0]) >= (int)sizeof path)
		return 125;
	child = fork();
	if (child == 0) {
		execv(path, argv);
		_exit(126);
	}
	if (child < 0 || wait4(child, &status, 0, &used) != child)
		return 125;
	/* One write to a file that is open for appending: many of these run at once. */
	log = open(MEASURED, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
	snprintf(line, sizeof line, "%s %ld %d\n", verb ? verb : "-", micros(used.ru_utime) + micros(used.ru_stime), status);
	if (log < 0 || write(log, line, strlen(line)) < 0)
		return 125;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
