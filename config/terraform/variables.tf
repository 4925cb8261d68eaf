variable "name" {
  description = "What everything is called, and the engine in CloudWatch's metrics."
  type        = string
  default     = "ingest-engine"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,39}$", var.name))
    error_message = "Lower case letters, digits and hyphens, at most 40 characters."
  }
}

variable "image" {
  description = "The engine's image, best pinned by its digest: REPOSITORY@sha256:…"
  type        = string
}

variable "vpc_id" {
  description = "The network that the cache lies in."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of it, one a zone, that reach AWS's services by a NAT gateway or by endpoints."
  type        = list(string)
  validation {
    condition     = length(var.subnet_ids) > 0
    error_message = "At least one."
  }
}

variable "cache_security_group_id" {
  description = "The cache's security group; the engine is let into it."
  type        = string
}

variable "cache_port" {
  description = "The cache's port."
  type        = number
  default     = 6379
}

variable "settings" {
  description = "The engine's settings file: file(\"engine.toml\"). config/engine.toml documents every setting. It holds no secret."
  type        = string
  validation {
    condition     = length(var.settings) <= 4096
    error_message = "A standard parameter of Systems Manager holds at most 4,096 characters."
  }
}

variable "password_secret_arn" {
  description = "The secret with the password of the engine's user, as plain text. Null where redis.iam is set."
  type        = string
  default     = null
}

variable "function_arns" {
  description = "The functions that the routes invoke."
  type        = list(string)
}

variable "failure_queue_arn" {
  description = "The queue of dead letters that the routes' on_failure names. Null: none."
  type        = string
  default     = null
}

variable "table_arns" {
  description = "The tables that the routes' destinations name: they are read for audits, and after gaps."
  type        = list(string)
  default     = []
}

variable "slices" {
  description = "Tasks that share the keys. To change it, set desired_count to 0, wait until no backlog is left, then set both."
  type        = number
  default     = 1
  validation {
    condition     = var.slices >= 1 && var.slices == floor(var.slices)
    error_message = "A whole number, at least 1."
  }
}

variable "desired_count" {
  description = "1: the slices run; 0: they are stopped, and keep their state."
  type        = number
  default     = 1
  validation {
    condition     = contains([0, 1], var.desired_count)
    error_message = "0 or 1: the state of a slice has one owner."
  }
}

variable "shards" {
  description = "Subscriber processes of a task."
  type        = number
  default     = 1
}

variable "invokers" {
  description = "Invoker processes of a task."
  type        = number
  default     = 2
}

variable "cpu" {
  description = "Of a task, in units: 1,024 a core. A core for each subscriber and invoker at full load."
  type        = number
  default     = 2048
}

variable "memory" {
  description = "Of a task, in MiB."
  type        = number
  default     = 4096
}

variable "architecture" {
  description = "The image's: ARM64 or X86_64."
  type        = string
  default     = "ARM64"
  validation {
    condition     = contains(["ARM64", "X86_64"], var.architecture)
    error_message = "ARM64 or X86_64."
  }
}

variable "cluster_arn" {
  description = "The ECS cluster to run in. Null: one is made."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30
}

variable "lag_alarm_ms" {
  description = "The lag that is an alarm; at rest it is about a second."
  type        = number
  default     = 60000
}

variable "alarm_topic_arn" {
  description = "Where alarms go. Null: they only show."
  type        = string
  default     = null
}

variable "tags" {
  description = "Of everything."
  type        = map(string)
  default     = {}
}
