# The engine on Fargate: a service a slice, in a network and beside a cache that are there already.

data "aws_region" "here" {}

locals {
  slices        = toset([for number in range(var.slices) : tostring(number)])
  cluster_arn   = coalesce(var.cluster_arn, one(aws_ecs_cluster.own[*].arn))
  alarm_actions = var.alarm_topic_arn == null ? [] : [var.alarm_topic_arn]
  config_file   = "/etc/ingest-engine/engine.toml"
  mounts = [
    { sourceVolume = "state", containerPath = "/var/lib/ingest-engine", readOnly = false },
    { sourceVolume = "settings", containerPath = "/etc/ingest-engine", readOnly = true },
  ]
  password = var.password_secret_arn == null ? [] : [
    { name = "ENGINE_REDIS_PASSWORD", valueFrom = var.password_secret_arn },
  ]
}

resource "aws_ecs_cluster" "own" {
  count = var.cluster_arn == null ? 1 : 0
  name  = var.name
  tags  = var.tags
}

resource "aws_cloudwatch_log_group" "engine" {
  name              = "/${var.name}"
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

resource "aws_ssm_parameter" "settings" {
  name  = "/${var.name}/engine.toml"
  type  = "String"
  value = var.settings
  tags  = var.tags
}

# --- The network: nothing comes in.

resource "aws_security_group" "engine" {
  name        = var.name
  description = "The engine, nothing comes in"
  vpc_id      = var.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_egress_rule" "engine" {
  security_group_id = aws_security_group.engine.id
  description       = "The cache, the state, AWS's services"
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_vpc_security_group_ingress_rule" "cache" {
  security_group_id            = var.cache_security_group_id
  description                  = "The engine"
  ip_protocol                  = "tcp"
  from_port                    = var.cache_port
  to_port                      = var.cache_port
  referenced_security_group_id = aws_security_group.engine.id
}

# --- The state: a folder a slice, that only its owner can reach.

resource "aws_efs_file_system" "state" {
  encrypted       = true
  throughput_mode = "elastic"
  tags            = merge(var.tags, { Name = "${var.name} state" })
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_security_group" "state" {
  name        = "${var.name}-state"
  description = "The state of the engine"
  vpc_id      = var.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "state" {
  security_group_id            = aws_security_group.state.id
  description                  = "NFS, from the engine"
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  referenced_security_group_id = aws_security_group.engine.id
}

resource "aws_efs_mount_target" "state" {
  for_each        = toset(var.subnet_ids)
  file_system_id  = aws_efs_file_system.state.id
  subnet_id       = each.value
  security_groups = [aws_security_group.state.id]
}

resource "aws_efs_access_point" "slice" {
  for_each       = local.slices
  file_system_id = aws_efs_file_system.state.id
  posix_user {
    uid = 10001
    gid = 10001
  }
  root_directory {
    path = "/slice-${each.key}"
    creation_info {
      owner_uid   = 10001
      owner_gid   = 10001
      permissions = "0700"
    }
  }
  tags = var.tags
}

# --- What a task does.

resource "aws_ecs_task_definition" "slice" {
  for_each                 = local.slices
  family                   = "${var.name}-${each.key}-of-${var.slices}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.engine.arn
  tags                     = var.tags

  runtime_platform {
    cpu_architecture        = var.architecture
    operating_system_family = "LINUX"
  }

  volume {
    name = "state"
    efs_volume_configuration {
      file_system_id     = aws_efs_file_system.state.id
      transit_encryption = "ENABLED"
      authorization_config {
        access_point_id = aws_efs_access_point.slice[each.key].id
        iam             = "ENABLED"
      }
    }
  }

  volume {
    name = "settings"
  }

  container_definitions = jsonencode([
    {
      name       = "settings"
      image      = var.image
      essential  = false
      user       = "0"
      entryPoint = ["/bin/sh", "-c"]
      command    = ["printf '%s\\n' \"$ENGINE_TOML\" > ${local.config_file} && chmod 0444 ${local.config_file}"]
      secrets    = [{ name = "ENGINE_TOML", valueFrom = aws_ssm_parameter.settings.arn }]
      # New settings make a new revision of the task, which starts when the old one has ended.
      environment      = [{ name = "SETTINGS_SHA256", value = sha256(var.settings) }]
      mountPoints      = [{ sourceVolume = "settings", containerPath = "/etc/ingest-engine", readOnly = false }]
      logConfiguration = merge(local.logs, { options = merge(local.logs.options, { awslogs-stream-prefix = "settings" }) })
    },
    {
      name                   = "engine"
      image                  = var.image
      essential              = true
      user                   = "10001:10001"
      readonlyRootFilesystem = true
      command                = ["start", "--config", local.config_file, "--shards", tostring(var.shards), "--invokers", tostring(var.invokers)]
      dependsOn              = [{ containerName = "settings", condition = "SUCCESS" }]
      environment            = [{ name = "ENGINE_SLICE", value = "${each.key}/${var.slices}" }]
      secrets                = local.password
      stopTimeout            = 60
      healthCheck = {
        command     = ["CMD", "engine", "status", "--config", local.config_file]
        interval    = 15
        timeout     = 10
        retries     = 6
        startPeriod = 120
      }
      ulimits          = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
      mountPoints      = local.mounts
      logConfiguration = merge(local.logs, { options = merge(local.logs.options, { awslogs-stream-prefix = "engine" }) })
    },
    {
      name                   = "metrics"
      image                  = var.image
      essential              = false
      user                   = "10001:10001"
      readonlyRootFilesystem = true
      command                = ["metrics", "--config", local.config_file, "--every-s", "60", "--name", var.name]
      dependsOn              = [{ containerName = "settings", condition = "SUCCESS" }]
      environment            = [{ name = "ENGINE_SLICE", value = "${each.key}/${var.slices}" }]
      mountPoints            = local.mounts
      logConfiguration       = merge(local.logs, { options = merge(local.logs.options, { awslogs-stream-prefix = "metrics" }) })
    },
  ])
}

locals {
  logs = {
    logDriver = "awslogs"
    options = {
      awslogs-group  = aws_cloudwatch_log_group.engine.name
      awslogs-region = data.aws_region.here.name
    }
  }
}

resource "aws_ecs_service" "slice" {
  for_each        = local.slices
  name            = "${var.name}-${each.key}-of-${var.slices}"
  cluster         = local.cluster_arn
  task_definition = aws_ecs_task_definition.slice[each.key].arn
  launch_type     = "FARGATE"
  desired_count   = var.desired_count
  propagate_tags  = "SERVICE"
  tags            = var.tags

  # A new task starts when the old one has ended: state has one owner.
  deployment_minimum_healthy_percent = 0
  deployment_maximum_percent         = 100

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [aws_security_group.engine.id]
    assign_public_ip = false
  }

  depends_on = [aws_efs_mount_target.state]
}
