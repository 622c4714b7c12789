/* Stands for libcuda where there is no driver: two GPUs, CUDA 12.6. */
#include <stdio.h>
int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "Stand-in %d", device) < 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 8 + device : attribute == 76 ? 7 - 7 * device : -1;
  return 0;
}
