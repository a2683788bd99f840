/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where and how it was measured: the machine, and whether others used it too. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>

#include "base/util.h"
#include "bench/results.h"
#include "godwit/godwit.h"

/* Others may use that share of the CPUs before a figure is doubted. */
#define BUSY_MAX 0.05

double bench_cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/*
 * What processes, and other guests of this machine's host, used. Interrupts are
 * left out: those of our own traffic are not in our own CPU time either.
 */
static uint64_t busy_ticks(void)
{
	unsigned long long user = 0, nice = 0, system = 0, idle, iowait, irq, softirq,
			   steal = 0;
	FILE *file = fopen("/proc/stat", "re");
	int n;

	if (!file)
		return 0;
	n = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice,
		   &system, &idle, &iowait, &irq, &softirq, &steal);
	fclose(file);
	return n == 8 ? user + nice + system + steal : 0;
}

void bench_host_init(struct bench_host *host)
{
	host->busy_ticks = busy_ticks();
	host->own_seconds = bench_cpu_seconds();
	host->taken_at = (double)gw_now() / 1e9;
}

/* The share of the CPUs that was used by others since bench_host_init(). */
static double share_of_others(const struct bench_host *host)
{
	double busy =
		(double)(busy_ticks() - host->busy_ticks) / (double)sysconf(_SC_CLK_TCK);
	double own = bench_cpu_seconds() - host->own_seconds;
	double wall = (double)gw_now() / 1e9 - host->taken_at;
	double all = wall * (double)sysconf(_SC_NPROCESSORS_ONLN);

	return all > 0 && busy > own ? (busy - own) / all : 0;
}

static json_t *quiet_json(const struct bench_host *host)
{
	double share = share_of_others(host);
	char why[96] = "";

	if (share > BUSY_MAX)
		snprintf(why, sizeof(why), "others used %.0f %% of the CPUs meanwhile",
			 share * 100);
	return json_pack("{s:b, s:s}", "ok", share <= BUSY_MAX, "why", why);
}

/* The first "model name" of /proc/cpuinfo; the machine's kind where there is none. */
static void cpu_name(char *buf, size_t size, const char *otherwise)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char line[256];
	char *value;

	snprintf(buf, size, "%s", otherwise);
	while (file && fgets(line, sizeof(line), file)) {
		value = strchr(line, ':');
		if (strncmp(line, "model name", 10) || !value)
			continue;
		value += 1 + strspn(value + 1, " \t");
		snprintf(buf, size, "%.*s", (int)strcspn(value, "\n"), value);
		break;
	}
	if (file)
		fclose(file);
}

static json_t *machine_json(void)
{
	struct sysinfo info = {0};
	struct utsname name;
	char cpu[128];

	uname(&name);
	sysinfo(&info);
	cpu_name(cpu, sizeof(cpu), name.machine);
	return json_pack("{s:s, s:I, s:I, s:s}", "cpu", cpu, "cpus",
			 (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_mib",
			 (json_int_t)((uint64_t)info.totalram * info.mem_unit >> 20),
			 "kernel", name.release);
}

json_t *bench_results_document(const struct bench_results *results,
			       const struct bench_host *host, const char *command,
			       uint64_t seed)
{
	time_t now = time(NULL);
	struct tm utc;
	char when[32];

	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
	return json_pack("{s:s, s:s, s:s, s:o, s:s, s:I, s:{s:s}, s:o, s:O, s:O, s:[]}",
			 "format", "godwit-bench/1", "tool", "godwit bench", "when", when,
			 "machine", machine_json(), "command", command, "seed",
			 (json_int_t)seed, "versions", "godwit", godwit_version(),
			 "quiet", quiet_json(host), "results", results->results,
			 "histograms", results->histograms, "series");
}
