#pragma once
#include "attention.h"
#include "elementwise.h"
#include "linear.h"
#include "sampling.h"
