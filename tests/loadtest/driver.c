/* NVML as its header declares it, for two boards of 300 W and 200 W. The second has no energy counter. */
#include <string.h>
#include <time.h>

typedef struct board { unsigned int index; } *nvmlDevice_t;
static struct board boards[2] = {{0}, {1}};
static const unsigned long long milliwatts[2] = {300000, 200000};

int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (index > 1) return 2;
    *device = &boards[index];
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
    struct timespec now;
    if (device->index) return 3;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = 5000000000ULL + milliwatts[0] * now.tv_sec + milliwatts[0] * now.tv_nsec / 1000000000ULL;
    return 0;
}
int nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power) {
    *power = (unsigned int)milliwatts[device->index];
    return 0;
}
int nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *limit) { *limit = 700000; return 0; }
int nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *mhz) {
    *mhz = type == 1 ? 1980 : type == 2 ? 3201 : 0;
    return 0;
}
int nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *mhz) {
    return nvmlDeviceGetClockInfo(device, type, mhz);
}
int nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *celsius) {
    *celsius = 40 + device->index;
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    *reasons = device->index ? 0x4 : 0x1;
    return 0;
}
